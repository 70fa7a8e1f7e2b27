"""Which rows are sent, and to which model: filters, duplicates, routes, answers of before."""
