"""What the commands do: imported when one runs, so that all others answer at once."""
