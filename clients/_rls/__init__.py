"""What judges roles and policies: the check at construction, and check_rls()."""
