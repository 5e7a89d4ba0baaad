"""What can be asked: one module a verb, used alike by Python, the command line and the gate."""
