"""Wire formats of the vendors: one file each, pure functions. Data plane."""
