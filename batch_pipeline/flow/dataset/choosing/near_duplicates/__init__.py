"""Documents of a night that are nearly the same: their signatures, and the search for twins."""
