"""Pure functions from (request features, snapshot, health) to a plan. No Django, no clock, no I/O."""
