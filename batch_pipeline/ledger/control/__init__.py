"""What people did to nights, in the ledger: actions, approvals, redrives."""
