mod metadata;
