"""Usage: the journal (data plane, pure), and the ledger, its drain, prices and totals (control plane)."""
