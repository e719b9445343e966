"""The door of the control plane: limits on failed sign-ins, second factor, sessions, recent authentication."""
