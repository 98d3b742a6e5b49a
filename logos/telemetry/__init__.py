"""What operators see: metrics and the log's format. Nothing here decides anything, and no secret passes through."""
