"""Learning tokens from images: the prompts, the jitted step, the loop, the files and sample sheets."""
