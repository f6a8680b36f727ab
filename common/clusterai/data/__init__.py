"""Data files of the programs: the lock of the compute environment."""
