"""What people see: tables on a terminal, progress, pages. It reads the values of a plan or run and decides nothing."""
