"""The courier: carries signed files in, and receipts, events and recordings out. It can make none of them."""
