"""
The executor that plays on Ray: workers on the cores of this machine, or of a cluster, and one journal here.

`cluster` joins or starts Ray, `worker` is what plays in the processes of Ray, and `executor` hands out rollouts and
takes them back. Nothing here decides what is played next: that is the schedule's business, as for every executor.
"""
