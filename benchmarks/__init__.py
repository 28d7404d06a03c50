"""dbha beside what an operator would run instead, both sides in one run, as ratios."""
