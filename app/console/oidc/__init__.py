"""Login with OpenID Connect: a provider says who the person is, and rules in the settings say what the person may do."""
