"""Weights from elsewhere and for others: released files read strictly, by name, and exports."""
