"""How each layer of a DDQ model becomes operators: one file per family, the table in `lower`."""
