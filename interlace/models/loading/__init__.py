"""What `loader` puts a pipeline together from: single files, other components, quantised weights, devices."""
