"""Where the elements of every storage come from, and what an operation makes of that."""
