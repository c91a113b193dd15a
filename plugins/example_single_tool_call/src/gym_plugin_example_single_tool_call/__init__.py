"""Ask for the weather with one tool call, then answer."""
