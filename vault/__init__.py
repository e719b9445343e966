"""References to credentials and the audit trail. Control plane, except `keyring` (data plane)."""
