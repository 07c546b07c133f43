"""When access ends and how: deadlines, the schedule, ending processes, receipts."""
