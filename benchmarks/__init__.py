"""What ckptdiff costs, beside what one would do without it. `python -m benchmarks` runs everything."""
