"""SQL that lists the accounts that have rows in a table."""


def accounts_with_rows_sql(table: str) -> str:
    """Returns SQL for the recursive CTE `account`, which has the `account_id` of each account with rows in `table`.

    The last row of the CTE is null, which ends the recursion. The query jumps from one account to the next in an index that
    begins with `account_id`. Its cost depends on the number of accounts, not on the number of rows.
    """
    return f"""WITH RECURSIVE account AS (
        (SELECT account_id FROM {table} ORDER BY account_id LIMIT 1)
        UNION ALL
        SELECT (SELECT further.account_id FROM {table} AS further WHERE further.account_id > account.account_id
                ORDER BY further.account_id LIMIT 1)
        FROM account WHERE account.account_id IS NOT NULL
    )"""  # noqa: S608  # names of tables of this package
