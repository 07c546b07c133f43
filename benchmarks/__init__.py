"""How fast, how small and how late Tidegate is, beside what an admin would use instead: ``python -m benchmarks``.

`frame` measures in turns, sums up, keeps, draws, compares. `rows` holds one file for each subject, `peers` what it is measured
against. Results are kept in `results`, one file for each row; docs/PERFORMANCE.md is made from them and from nothing else.
The other files here are tools of their own, run by hand: each says how.
"""
