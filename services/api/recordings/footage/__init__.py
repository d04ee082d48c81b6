"""Footage of a service hall: requests 调取 while the hall still has it, and who handed it over 移交."""
