"""SQL that lists the accounts with rows in a table."""


def accounts_of(table: str) -> str:
    """Returns `WITH RECURSIVE account AS (…)`: the `account_id` of each account with rows in `table`, and a last null.

    It skips from one account to the next in an index that begins with `account_id`, so that its cost depends on the number of
    accounts and not on that of rows.
    """
    return f"""WITH RECURSIVE account AS (
        (SELECT account_id FROM {table} ORDER BY account_id LIMIT 1)
        UNION ALL
        SELECT (SELECT further.account_id FROM {table} AS further WHERE further.account_id > account.account_id
                ORDER BY further.account_id LIMIT 1)
        FROM account WHERE account.account_id IS NOT NULL
    )"""  # noqa: S608  # names of tables of this package
