"""The gateway's upstream HTTP client (data plane): one seam, `seam.py`, and two implementations behind it."""
