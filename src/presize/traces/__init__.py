"""Files that say when requests came and how long they were: read in one place, for whoever replays them."""
