"""Small tools that know nothing of the rooms above: files written whole, seeds, checks of settings, the allocator."""
