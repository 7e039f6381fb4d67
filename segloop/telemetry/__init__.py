"""What segloop tells of itself: notes for metrics and spans, logs, traces."""
