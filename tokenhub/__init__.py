"""The project: wiring (settings, asgi, urls), the contract in `core`, and what the control plane shares in `control`."""
