"""What operations would write: the log of every storage, carried out when somebody looks."""
