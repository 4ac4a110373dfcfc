"""What pytest shows: the only modules, beside the plugin's own, that know pytest."""
