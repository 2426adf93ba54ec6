"""ControlNets, T2I-Adapters and IP-Adapters of one pipeline, chosen by requests. Knows nothing of rows and HTTP."""
