"""What is the same for every row: figures, turns, results, the page, its plots, the comparison with earlier results."""
