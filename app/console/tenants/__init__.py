"""The pages of tenants: the list, one tenant with all that belongs to it, and the forms that change it."""
