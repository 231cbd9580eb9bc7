"""Several models or passes beside each other: comparisons, contrasts, histories."""
