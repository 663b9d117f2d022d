"""The bank's REST API: reading, curating, searching, explaining."""
