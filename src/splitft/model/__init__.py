"""One frozen decoder run in parts: window, batch layout, head, attention and adapter slots."""
