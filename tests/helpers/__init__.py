"""What several tests need: made tasks and methods, small data sets and trainings, readers of output."""
