"""Runs the open work of campaigns: in this process (``local``) or by workers of a LaunchPad (``fireworks``)."""
