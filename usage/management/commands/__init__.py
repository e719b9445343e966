"""Commands of the accounting."""
