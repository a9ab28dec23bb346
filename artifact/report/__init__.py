"""What reviewers read: the report, tables on the terminal, the pages of claims."""
