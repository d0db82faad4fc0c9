"""Tasks of one's own: `tasks` makes them, `run` trains and asks, `baseline` is to compare with."""
