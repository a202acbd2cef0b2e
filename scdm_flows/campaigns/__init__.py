"""Campaigns: registration, the plan of open work, budget, choice of the best, funnel; no executor."""
