"""The registry's revisions, oldest first. Each says what it needs itself: tables of a later release are not its own."""
