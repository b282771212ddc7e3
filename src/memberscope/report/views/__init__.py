"""What each part of the report shows, computed from findings; templates only lay it out."""
