"""From an `nn.Module` to a tape of steps, by tracing it with torch.fx."""
