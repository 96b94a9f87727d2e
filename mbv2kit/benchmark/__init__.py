"""How fast a model runs here, against what people would run instead; figures of one run, as ratios."""
