"""The contract between the two planes. Standard library only; imports nothing else of the project."""
